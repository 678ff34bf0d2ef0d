package tickwise.bench;

import com.fasterxml.jackson.annotation.JsonIgnore;
import com.fasterxml.jackson.core.StreamWriteFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.IOException;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.LogAndContinueExceptionHandler;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.processor.api.RecordMetadata;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** As the documentation teaches it: typed records through Jackson, a store with changelog and cache, a tick at a time. */
final class Idiomatic {
    private static final String STORE = "state";
    private static final ObjectMapper JSON =
            JsonMapper.builder().enable(StreamWriteFeature.USE_FAST_DOUBLE_WRITER).build();

    private Idiomatic() {}

    record Prediction(
            @JsonIgnore int partition, String id, String symbol, long ts, String horizon, Float score, String model,
            int version, String status, String reason) {}

    static void configure(Properties settings) {
        settings.put(StreamsConfig.DESERIALIZATION_EXCEPTION_HANDLER_CLASS_CONFIG, LogAndContinueExceptionHandler.class);
    }

    static Topology topology(Arguments arguments, Model model) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.addStateStore(Stores.keyValueStoreBuilder(
                        Stores.persistentKeyValueStore(STORE),
                        Serdes.String(),
                        Serdes.serdeFrom((topic, state) -> state == null ? null : state.toBytes(),
                                (topic, bytes) -> bytes == null ? null : SymbolState.fromBytes(bytes)))
                .withCachingEnabled());
        builder.stream(arguments.ticks(), Consumed.with(Serdes.String(), tickSerde()))
                .process(() -> new Scoring(arguments.topicId(), model), STORE)
                .to(arguments.out(), Produced.with(Serdes.String(), predictionSerde())
                        .withStreamPartitioner((topic, symbol, prediction, partitions) ->
                                Optional.of(Set.of(prediction.partition()))));
        return builder.build();
    }

    private static Serde<Tick> tickSerde() {
        return Serdes.serdeFrom((topic, tick) -> write(tick), (topic, bytes) -> Tick.read(bytes));
    }

    private static Serde<Prediction> predictionSerde() {
        return Serdes.serdeFrom((topic, prediction) -> write(prediction), (topic, bytes) -> {
            throw new UnsupportedOperationException();
        });
    }

    private static byte[] write(Object value) {
        try {
            return JSON.writeValueAsBytes(value);
        } catch (IOException error) {
            throw new SerializationException(error);
        }
    }

    private static final class Scoring implements Processor<String, Tick, String, Prediction> {
        private final String topicId;
        private final Model model;
        private final float[] x = new float[SymbolState.WIDTH];
        private ProcessorContext<String, Prediction> context;
        private KeyValueStore<String, SymbolState> store;

        Scoring(String topicId, Model model) {
            this.topicId = topicId;
            this.model = model;
        }

        @Override
        public void init(ProcessorContext<String, Prediction> context) {
            this.context = context;
            store = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<String, Tick> record) {
            Tick tick = record.value();
            SymbolState state = store.get(tick.symbol);
            if (state == null) {
                state = new SymbolState();
            }
            int flags = state.step(tick, x, 0);
            store.put(tick.symbol, state);
            if (flags == SymbolState.DUPLICATE) {
                return;
            }
            float score = flags == 0 ? model.score(x) : Float.NaN;
            String reason = Reason.of(flags, score);
            RecordMetadata at = context.recordMetadata().orElseThrow();
            context.forward(record.withKey(tick.symbol).withValue(new Prediction(
                    at.partition(), topicId + "-" + at.partition() + "-" + at.offset() + "-0", tick.symbol, tick.ts,
                    Arguments.HORIZON, reason == null ? score : null, Arguments.NAME, Arguments.VERSION,
                    reason == null ? "ok" : "abstained", reason)));
        }
    }
}
