"""Side-by-side measurements on embedded servers. Read them as ratios: machines differ."""
