"""The contract on the wire; the only room that knows gRPC, and it decides nothing."""
