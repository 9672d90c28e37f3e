"""One function for each command: a project in, a result out. Only this room sees both sides of the wall."""
