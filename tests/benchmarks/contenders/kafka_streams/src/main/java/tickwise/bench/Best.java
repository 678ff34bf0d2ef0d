package tickwise.bench;

import ai.onnxruntime.OrtException;
import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** The fastest form: bytes in and out, state in plain objects of the task, rows scored in micro-batches. */
final class Best {
    private static final int BATCH = 1024;
    private static final int LONGEST_WAIT_MS = 10;
    private static final int QUICK_WAIT_MS = 1;
    private static final int LINGER_MS = 100; // as Streams has it by default: batches of 900 kB take 60 ms to fill
    private static final int QUICK_LINGER_MS = 1;
    private static final Logger LOG = LoggerFactory.getLogger(Best.class);

    private Best() {}

    static void configure(Properties settings, boolean quick) {
        settings.put(StreamsConfig.POLL_MS_CONFIG, quick ? QUICK_WAIT_MS : LONGEST_WAIT_MS);
        // A task has one partition, so there is none to wait for; Streams then skips a check that costs a set a tick.
        settings.put(StreamsConfig.MAX_TASK_IDLE_MS_CONFIG, StreamsConfig.MAX_TASK_IDLE_MS_DISABLED);
        settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 100_000);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 20_000);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 4 << 20);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.RECEIVE_BUFFER_CONFIG), 4 << 20);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.SEND_BUFFER_CONFIG), 4 << 20);
        // Every batch wakes the sender, which takes the core from the stream thread; brokers take up to 1 MB.
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 900_000);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), quick ? QUICK_LINGER_MS : LINGER_MS);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BUFFER_MEMORY_CONFIG), 128L << 20);
    }

    static Topology topology(Arguments arguments, Model model, HeldOffsets held) {
        return new Topology()
                .addSource("ticks", new ByteArrayDeserializer(), new ByteArrayDeserializer(), arguments.ticks())
                .addProcessor("scoring", () -> new Scoring(arguments, model, held), "ticks")
                .addSink("predictions", arguments.out(), new ByteArraySerializer(), new ByteArraySerializer(), "scoring");
    }

    private static final class Scoring implements Processor<byte[], byte[], byte[], byte[]> {
        private final String topicId;
        private final int waitMs;
        private final HeldOffsets held;
        private final Model.Batch[] batches; // of 1, 2, 4 rows and so on
        private final Symbols symbols = new Symbols();
        private final TickParser parser = new TickParser();

        // Ticks that are held, in order.
        private final Symbols.Entry[] symbol = new Symbols.Entry[BATCH];
        private final long[] offset = new long[BATCH];
        private final long[] ts = new long[BATCH];
        private final int[] flags = new int[BATCH];
        private int count;

        // Rows of those of them that are scored, in order.
        private final float[] x = new float[BATCH * SymbolState.WIDTH];
        private final float[] scores = new float[BATCH];
        private int rows;

        private ProcessorContext<byte[], byte[]> context;
        private PredictionWriter writer;
        private int partition;

        Scoring(Arguments arguments, Model model, HeldOffsets held) {
            topicId = arguments.topicId();
            waitMs = arguments.quick() ? QUICK_WAIT_MS : LONGEST_WAIT_MS;
            this.held = held;
            batches = new Model.Batch[Integer.numberOfTrailingZeros(BATCH) + 1];
            try {
                for (int i = 0; i < batches.length; i++) {
                    batches[i] = model.batch(1 << i);
                }
            } catch (OrtException error) {
                throw new IllegalStateException(error);
            }
        }

        @Override
        public void init(ProcessorContext<byte[], byte[]> context) {
            this.context = context;
            partition = context.taskId().partition();
            writer = new PredictionWriter(topicId, partition);
            held.release(partition); // here and not in close, which may come before the last commit
            context.schedule(Duration.ofMillis(waitMs), PunctuationType.WALL_CLOCK_TIME, now -> answer());
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            long at = context.recordMetadata().orElseThrow().offset();
            try {
                parser.read(record.value());
            } catch (SerializationException error) {
                LOG.warn("tick {} of partition {} is left out: {}", at, partition, error.getMessage());
                return;
            }
            Symbols.Entry entry = symbols.find(parser.symbolBytes, parser.symbolFrom, parser.symbolTo);
            int why = entry.state.step(parser.tick, x, rows * SymbolState.WIDTH);
            if (why == SymbolState.DUPLICATE) {
                return;
            }
            if (count == 0) {
                held.hold(partition, at);
            }
            symbol[count] = entry;
            offset[count] = at;
            ts[count] = parser.tick.ts;
            flags[count] = why;
            count++;
            if (why == 0) {
                rows++;
            }
            if (count == BATCH) {
                answer();
            }
        }

        /** Scores what is held and sends it on. */
        private void answer() {
            if (count == 0) {
                return;
            }
            if (rows > 0) {
                batches[32 - Integer.numberOfLeadingZeros(rows - 1)].score(x, rows, scores);
            }
            held.answering = partition;
            int row = 0;
            for (int i = 0; i < count; i++) {
                float score = flags[i] == 0 ? scores[row++] : Float.NaN;
                byte[] value = writer.write(offset[i], symbol[i].json, ts[i], score, Reason.of(flags[i], score));
                context.forward(new Record<>(symbol[i].key, value, ts[i] / 1_000_000));
            }
            count = rows = 0;
            held.release(partition);
        }

        @Override
        public void close() {
            for (Model.Batch batch : batches) {
                batch.close();
            }
        }
    }
}
