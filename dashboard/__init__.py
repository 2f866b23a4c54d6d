"""The dashboard: reads runs, shows findings beside the images behind them. Imports no torch."""
