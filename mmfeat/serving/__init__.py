"""An exported model behind HTTP: what is asked, what is answered, and many requests as one batch."""
