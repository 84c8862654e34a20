"""Readers of images, one module for each format, by the library that knows it; `data_prep.reader` is their door."""
