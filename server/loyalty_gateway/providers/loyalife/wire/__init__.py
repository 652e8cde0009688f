"""Loyalife's spelling: paths, bodies out, answers in; it sends nothing and decides nothing.

Every name of the vendor's fields stands in this folder and nowhere else.
"""
