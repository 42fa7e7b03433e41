"""The operator's commands: `duet vip`, `apply`, `diff`, `export`, `assignment`, `drain`, `status`, `why`...

Exit codes: 0 done, 1 the controller refused or could not be reached, 2 the command line is wrong.
"""
