"""Tables: expected pair sums over species of tracers, and the error that the size of the boxes gives."""
