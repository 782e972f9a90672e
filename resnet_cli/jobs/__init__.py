"""What a command does, as a function: values in, a frozen result out, progress to a `Progress`."""
