"""What is asked of a run or of a data set beyond its certificates and attacks: one folder an analysis."""
