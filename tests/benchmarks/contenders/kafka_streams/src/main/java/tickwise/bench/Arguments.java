package tickwise.bench;

/** What every contender is told. */
record Arguments(
        String bootstrap, String ticks, String topicId, String out, String group, String model, int partitions) {
    static final String HORIZON = "10s";
    static final String NAME = "bench";
    static final int VERSION = 1;
}
