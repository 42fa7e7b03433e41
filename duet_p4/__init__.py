"""What runs on a network node of DUET, and the vocabulary every part shares."""
