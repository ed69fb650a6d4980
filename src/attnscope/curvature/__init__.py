"""Second-order operators on blocks of parameters, and estimators named after their quantity or paper."""
