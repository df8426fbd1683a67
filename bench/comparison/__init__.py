"""bench/peers: servers that can be restarted without loss, side by side.

services.py   what every peer is to the measurement: started, asked, restarted, its processes counted
peers.py      the peers, each restarted as its documentation says
measure.py    what is measured of each, one repetition
failures.py   what happens where the next version is missing, ends at once, or hangs
result.py     the figures as text
pictures.py   the figures as SVG
"""
