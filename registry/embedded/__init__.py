"""The one-machine stack behind `registry serve`: its home, its S3 store, and who watches over the processes."""
