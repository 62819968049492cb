ok a
