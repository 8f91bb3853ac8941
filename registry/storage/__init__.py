"""S3 and nothing else: where objects live (`layout`), how they are reached (`s3`), how URLs are signed (`presign`)."""
