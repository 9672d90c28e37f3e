"""One module for each command: arguments in, a result out. No module here imports another."""
