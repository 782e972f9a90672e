"""Parse, call one job, print: one file a command. Nothing else prints or exits."""
