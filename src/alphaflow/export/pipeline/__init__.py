"""The code of an exported diffusers pipeline: real modules here, copied into the folder by `export.diffusers`.

In the folder they run without alphaflow, so `pipeline.py` and `scheduler.py` import nothing of it, and of
`network.py` a file is made that holds the networks' own source as well.
"""
