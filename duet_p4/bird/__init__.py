"""BGP through BIRD 2: `config` writes the whole of bird.conf, `daemon` runs BIRD and asks it things."""
