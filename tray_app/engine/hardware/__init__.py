"""What this machine computes with, as its own tools and files tell it. `reading` is the way in."""
