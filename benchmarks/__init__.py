"""What is measured rather than tested: each file is one command, its record a JSON."""
