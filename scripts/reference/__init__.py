"""What is generated from the code: references, the man page, and shell completions."""
