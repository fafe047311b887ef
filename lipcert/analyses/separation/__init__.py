"""`lipcert separation`: how far apart a data set's labels lie (TULIP's Table 2)."""
