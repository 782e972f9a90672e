"""The command line: one file per command, which parses, calls one job and prints. Only this room prints or exits."""
