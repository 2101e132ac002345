"""How fast models read prompts and write answers here, measured with llama.cpp's own tool."""
