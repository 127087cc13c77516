"""Decide which listings of different sources are one asset.

resolver: when a page brings new listings; assignment: the rules; similarity: the evidence; rematch: later, with all
listings and prices; decisions, undo: what people decide; overrides_file, apply_overrides: what a file decides.
"""
