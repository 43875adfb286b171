"""Files that are whole or absent, content hashes, and S3.

Importing this package loads none of boto3: `pipeline_lib.storage.s3` does, when it is called.
"""
