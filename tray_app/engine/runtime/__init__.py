"""llama.cpp itself: acquired, built, proven, chosen, rolled back. `service` is the way in."""
