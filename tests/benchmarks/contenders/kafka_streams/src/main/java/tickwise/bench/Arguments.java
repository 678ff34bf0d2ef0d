package tickwise.bench;

/** What every contender is told; quick is one that answers each tick as soon as can be, else as many as can be. */
record Arguments(
        String bootstrap, String ticks, String topicId, String out, String group, String model, int partitions,
        boolean quick) {
    static final String HORIZON = "10s";
    static final String NAME = "bench";
    static final int VERSION = 1;
}
