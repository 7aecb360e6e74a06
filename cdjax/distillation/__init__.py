"""What a student is compared with: alignments, the layers they pair, and the arms that choose."""
