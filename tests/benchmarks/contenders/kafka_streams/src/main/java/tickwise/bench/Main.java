package tickwise.bench;

import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Objects;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import sun.misc.Signal;

/** Runs one form until SIGTERM: BOOTSTRAP TICKS_TOPIC TOPIC_ID OUT_TOPIC GROUP MODEL_ONNX PARTITIONS [FORM [AIM]]. */
public final class Main {
    private static final int STOP_S = 15;

    private Main() {}

    public static void main(String[] words) throws Exception {
        Arguments arguments = new Arguments(
                words[0], words[1], words[2], words[3], words[4], words[5], Integer.parseInt(words[6]),
                words.length > 8 && words[8].equals("latency"));
        String form = words.length > 7 ? words[7] : "best";
        CountDownLatch end = new CountDownLatch(1);
        Signal.handle(new Signal("TERM"), signal -> end.countDown());
        Model model = new Model(arguments.model());
        Path folder = Files.createTempDirectory("contender-");
        KafkaStreams streams = switch (form) {
            case "idiomatic" -> idiomatic(arguments, model, folder);
            case "best" -> best(arguments, model, folder);
            default -> throw new IllegalArgumentException("no form " + form);
        };
        AtomicBoolean failed = new AtomicBoolean();
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            failed.set(true);
            end.countDown();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
        end.await();
        // Streams stays in the group by default, and whoever comes next waits until its session has timed out.
        boolean closed = streams.close(CloseOptions.timeout(Duration.ofSeconds(STOP_S))
                .withGroupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP));
        if (closed) {
            model.close();
        } else {
            System.err.println("the stream thread did not end within " + STOP_S + " s");
        }
        delete(folder.toFile());
        System.exit(closed && !failed.get() ? 0 : 1);
    }

    private static void delete(File file) {
        for (File inside : Objects.requireNonNullElse(file.listFiles(), new File[0])) {
            delete(inside);
        }
        file.delete();
    }

    private static KafkaStreams idiomatic(Arguments arguments, Model model, Path folder) {
        Properties settings = settings(arguments, folder);
        Idiomatic.configure(settings);
        return new KafkaStreams(Idiomatic.topology(arguments, model), settings);
    }

    private static KafkaStreams best(Arguments arguments, Model model, Path folder) {
        Properties settings = settings(arguments, folder);
        Best.configure(settings, arguments.quick());
        HeldOffsets held = new HeldOffsets(arguments.partitions());
        return new KafkaStreams(Best.topology(arguments, model, held), settings, new HoldingClients(held));
    }

    private static Properties settings(Arguments arguments, Path folder) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments.group());
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments.bootstrap());
        settings.put(StreamsConfig.STATE_DIR_CONFIG, folder.toString());
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 5000);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        return settings;
    }
}
