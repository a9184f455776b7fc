"""What hostile pods send: the ground with victims and attackers (`ground`), and the table of attacks (`attacks`)."""
