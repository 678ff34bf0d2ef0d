package tickwise.bench;

import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;

/** The first tick of each partition that was taken but not answered; used by the one stream thread. */
final class HeldOffsets {
    private static final long NONE = Long.MAX_VALUE;
    private final long[] first;
    int answering; // the partition whose predictions are being sent

    HeldOffsets(int partitions) {
        first = new long[partitions];
        Arrays.fill(first, NONE);
    }

    void hold(int partition, long offset) {
        first[partition] = offset;
    }

    void release(int partition) {
        first[partition] = NONE;
    }

    /** What may be committed of {@code offsets}: nothing past a tick that is held. */
    Map<TopicPartition, OffsetAndMetadata> bound(Map<TopicPartition, OffsetAndMetadata> offsets) {
        Map<TopicPartition, OffsetAndMetadata> bounded = new HashMap<>(offsets);
        bounded.replaceAll((place, at) -> at.offset() <= first[place.partition()]
                ? at
                : new OffsetAndMetadata(first[place.partition()], at.leaderEpoch(), at.metadata()));
        return bounded;
    }
}
