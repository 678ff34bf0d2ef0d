package tickwise.bench;

import java.util.Map;
import org.apache.kafka.clients.producer.Partitioner;
import org.apache.kafka.common.Cluster;

/** Sends a prediction to the partition its tick came from. */
public final class SamePartition implements Partitioner {
    static final String HELD = "contender.held";
    private HeldOffsets held;

    @Override
    public void configure(Map<String, ?> config) {
        held = (HeldOffsets) config.get(HELD);
    }

    @Override
    public int partition(String topic, Object key, byte[] keyBytes, Object value, byte[] valueBytes, Cluster cluster) {
        return held.answering;
    }

    @Override
    public void close() {}
}
