"""The engines of the cluster profile as child processes: jars, Java, Cassandra, Kafka. No Docker, no root."""
