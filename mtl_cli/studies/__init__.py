"""Learning together against learning alone: which runs tell, what they say, and how sure it is."""
