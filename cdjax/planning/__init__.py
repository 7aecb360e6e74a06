"""What fits where, before a weight is loaded: targets, roofline, programs, and the compiler."""
