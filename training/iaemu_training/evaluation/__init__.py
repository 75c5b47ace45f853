"""How good an emulator is: figures of merit, reports, figures, model cards."""
