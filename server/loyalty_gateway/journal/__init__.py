"""Remembers every booking; the only room with SQL, and it never decides anything."""
