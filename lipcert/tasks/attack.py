def attack_run(*a, **k): pass
def run(**k): pass
