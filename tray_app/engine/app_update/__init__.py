"""Updates of this app itself: asked for, checked, staged, and tried before they are used."""
