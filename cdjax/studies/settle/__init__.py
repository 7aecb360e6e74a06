"""Studies that settle a question: a frozen protocol, gates that come first, and verdicts."""
