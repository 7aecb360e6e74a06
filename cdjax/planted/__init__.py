"""Teachers whose circuits are known, because they were trained into them."""
