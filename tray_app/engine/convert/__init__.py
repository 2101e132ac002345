"""Models made from models: quantized, checked, put into the library. `quantizing` is the way in."""
