"""The Python API, `import resnet_cli as resnet`: each function does what the command of its name does.

Commands and API call the same functions of `jobs/`; this room turns arguments into requests, shows progress, and lets Ctrl-C
stop a call.
"""
