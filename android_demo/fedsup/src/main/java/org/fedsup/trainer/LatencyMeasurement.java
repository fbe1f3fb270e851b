package org.fedsup.trainer;

import java.util.ArrayList;
import java.util.List;

/**
 * Measures the parts of a search space's subnets on this device, one file per call, and makes the
 * latency table that {@code fedsup search --latency_table} takes.
 */
public final class LatencyMeasurement {
    private final PartModels parts;
    private final List<Latency> rows = new ArrayList<>();
    private final List<Latency> calls = new ArrayList<>();
    private final List<Latency> subnets = new ArrayList<>();
    private int done;

    /**
     * Prepares a measurement.
     *
     * @param parts the models, which must stay open during the measurement
     */
    public LatencyMeasurement(PartModels parts) {
        this.parts = parts;
    }

    /**
     * Measures the next file. Nothing else should run meanwhile.
     *
     * @return false if there was no file left
     * @throws UnusableFileException if it is damaged
     */
    public boolean step() throws UnusableFileException {
        int groups = parts.groups.size();
        if (done < groups) {
            measure(parts.groups.get(done));
        } else if (done < files()) {
            PartModels.Subnet subnet = parts.subnets.get(done - groups);
            List<String> signatures = List.of(Signatures.INFER, Signatures.TRAIN);
            subnets.add(least(subnet.entry(), signatures).get(0));
        } else {
            return false;
        }
        done++;
        return true;
    }

    /**
     * Returns the number of files measured so far.
     *
     * @return the number of files
     */
    public int done() {
        return done;
    }

    /**
     * Returns the total number of files.
     *
     * @return the number of files
     */
    public int files() {
        return parts.groups.size() + parts.subnets.size();
    }

    /**
     * Returns the table, once every file has been measured.
     *
     * @param machine a description of the device, for people
     * @return the table as JSON
     */
    public String table(String machine) {
        if (done < files()) {
            throw new IllegalStateException(
                    "Expected all " + files() + " files to be measured, received " + done + ".");
        }
        return new LatencyFit(parts, rows, calls, subnets).table(machine + "; " + SignatureTimer.runtimeVersion());
    }

    private void measure(PartModels.Group group) throws UnusableFileException {
        List<String> signatures = new ArrayList<>();
        for (int number = 0; number <= group.rows().size(); number++) {
            signatures.add(Signatures.INFER + "_" + number);
            signatures.add(Signatures.TRAIN + "_" + number);
        }
        List<Latency> found = least(group.entry(), signatures);
        Latency call = found.get(0);
        calls.add(call);
        found.subList(1, found.size()).forEach(latency -> rows.add(latency.without(call)));
    }

    /** Returns the latencies of a model's pairs of signatures, infer and train. */
    private List<Latency> least(String entry, List<String> signatures) throws UnusableFileException {
        try (SignatureTimer timer = new SignatureTimer(parts.model(entry), parts.threads)) {
            double[] least = timer.minMilliseconds(signatures, parts.repetitions);
            List<Latency> found = new ArrayList<>();
            for (int place = 0; place < least.length; place += 2) {
                found.add(new Latency(least[place], least[place + 1]));
            }
            return found;
        }
    }
}
