"""What may be wrong with a dataset, found before it is trained on.

:mod:`.codes` names the faults, :mod:`.listing` finds the files of every split,
:mod:`.example` looks at one image and its mask, :mod:`.dataset` at all of them.
Nothing stops at a fault: where a source would raise an error, a finding is noted.
"""
