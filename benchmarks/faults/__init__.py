"""Faults made on purpose: runs are killed, and what comes out is compared."""
