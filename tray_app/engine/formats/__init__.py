"""What a file or a folder of a model is, told from its content, and what can be done with it."""
