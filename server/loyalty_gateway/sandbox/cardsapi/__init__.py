"""CISS CardAPI and AuthAPI, played: what this vendor would answer; nothing else lives here."""
