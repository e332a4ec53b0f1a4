"""Answers about four sources, labelled by hand: is every claim of the answer in the source?

Half of them are. The others have one fault each, of the kinds that models make: another number, unit, date, name,
colour or place; a value of the neighbour's; a claim added; a claim turned round.
"""

from __future__ import annotations

from typing import NamedTuple

SOURCES = {
    "telescope": (
        "The Altair is a reflector for beginners. It has an aperture of 114 mm and weighs 4.2 kg. The tube is painted "
        "black and stands on a yoke mount. It costs $1,250 and is built in Basel. The warranty is seven years.\n"
        "The Vega is the smaller one: its aperture is 70 mm, it weighs 900 g, and it is blue. It comes with "
        "a wall mount "
        "and costs $480. We build it in Krakow. It must not be pointed at the sun."
    ),
    "handbook": (
        "Leave. Every employee has 25 days of paid leave a year; after ten years of service it is 30 days. "
        "Requests go to "
        "the team lead at least two weeks before the first day. Unused days expire on 31 March of the following year.\n"
        "Opening hours. The office in Port Arden is open from 9:00 to 17:30 on weekdays and closed on public holidays. "
        "Visitors sign in with Ms. Okafor at the front desk. Travel. Flights are booked by Tomas Brandt. Hotels up to "
        "€140 a night need no approval. Receipts are kept for three years."
    ),
    "biography": (
        "Maria Lindqvist was born on 14 February 1871 in Uppsala, the third of five children. She studied chemistry at "
        "the University of Leipzig and received her doctorate in 1896. With Henrik Vaas she discovered the "
        "blue pigment "
        "later called vaasite. In 1904 she became the first woman to lead the State Laboratory in Gothenburg. She "
        "never married. She died in Oslo in 1949, and her notebooks are kept at the Nordic Museum."
    ),
    "release": (
        "Version 3.2 of Corvid was released on 2 June 2024. It adds streaming exports and a dark theme, and "
        "fixes 41 bugs. "
        "Memory use fell by 35 % compared with version 3.1. Support for Windows 7 was removed. The "
        "configuration file is "
        "now called corvid.toml. Files larger than 2 GB are no longer loaded at once. Upgrades from 2.x "
        "need the migration "
        "tool, which takes about 20 minutes for a database of 100,000 rows."
    ),
}  # fmt: skip


class Case(NamedTuple):
    source: str
    question: str
    answer: str
    supported: bool


CASES = [
    Case("telescope", "How wide is the Altair?", "114 mm.", True),
    Case("telescope", "How wide is the Altair?", "The Altair has an aperture of 114 mm.", True),
    Case("telescope", "How wide is the Altair?", "Thank you for asking! The Altair is 11.4 cm wide.", True),
    Case("telescope", "How heavy is the Vega?", "The Vega weighs 0.9 kg.", True),
    Case("telescope", "How heavy is the Vega?", "It weighs 900 grams. I hope this helps!", True),
    Case("telescope", "What does the Altair cost?", "The Altair costs 1250 dollars.", True),
    Case("telescope", "What colour is the Altair?", "Black.", True),
    Case("telescope", "What colour is the Altair?", "The Altair's tube is black.", True),
    Case("telescope", "Where is the Vega built?", "The Vega is built in Krakow.", True),
    Case("telescope", "How long is the warranty?", "The warranty lasts 7 years.", True),
    Case("telescope", "Tell me about the Altair.", "The Altair stands on a yoke mount and costs $1,250.", True),
    Case("telescope", "May I point the Vega at the sun?", "No. The Vega must not be pointed at the sun.", True),
    Case("telescope", "How wide is the Altair?", "The Altair has an aperture of 130 mm.", False),
    Case("telescope", "How wide is the Altair?", "The Altair has an aperture of 70 mm.", False),
    Case("telescope", "How wide is the Altair?", "The Altair has an aperture of 114 cm.", False),
    Case("telescope", "What colour is the Altair?", "The Altair is blue.", False),
    Case("telescope", "What colour is the Altair?", "Silver.", False),
    Case("telescope", "What does the Vega cost?", "The Vega costs $1,250.", False),
    Case("telescope", "Where is the Vega built?", "The Vega is built in Basel.", False),
    Case("telescope", "Where is the Altair built?", "We build the Altair in Dublin.", False),
    Case("telescope", "How long is the warranty?", "The warranty is eleven years.", False),
    Case(
        "telescope", "Tell me about the Altair.", "The Altair weighs 4.2 kg. It was designed by Ines Halloran.", False
    ),
    Case("telescope", "Tell me about the Vega.", "The Vega is blue and comes with a carrying case.", False),
    Case("telescope", "May I point the Vega at the sun?", "Yes, the Vega can be pointed at the sun.", False),
    Case("handbook", "How much leave do I have?", "You have 25 days of paid leave a year.", True),
    Case("handbook", "How much leave after ten years?", "After ten years of service it is 30 days.", True),
    Case("handbook", "When do unused days expire?", "They expire on March 31 of the following year.", True),
    Case("handbook", "When is the office open?", "The office in Port Arden is open from 9 am to 5:30 pm.", True),
    Case("handbook", "When is the office open?", "It is open on weekdays and closed on public holidays.", True),
    Case("handbook", "Who books flights?", "Tomas Brandt books the flights.", True),
    Case("handbook", "Who books flights?", "Flights are booked by Mr. Brandt.", True),
    Case("handbook", "What may a hotel cost?", "Hotels up to 140 euros a night need no approval.", True),
    Case("handbook", "How long are receipts kept?", "Receipts are kept for 3 years.", True),
    Case("handbook", "Where do visitors sign in?", "Visitors sign in at the front desk, with Ms. Okafor.", True),
    Case("handbook", "Is there a canteen?", "I am sorry, the handbook does not say.", True),
    Case("handbook", "How much leave do I have?", "You have 28 days of paid leave a year.", False),
    Case("handbook", "How much leave after ten years?", "After ten years it is 35 days.", False),
    Case("handbook", "When do unused days expire?", "They expire on 31 May.", False),
    Case("handbook", "When is the office open?", "The office is open from 9:00 to 18:30.", False),
    Case("handbook", "When is the office open?", "The office is open on public holidays.", False),
    Case("handbook", "Who books flights?", "Flights are booked by Ms. Okafor.", False),
    Case("handbook", "Who books flights?", "Flights are booked by Anna Weiss.", False),
    Case("handbook", "What may a hotel cost?", "Hotels up to €180 a night need no approval.", False),
    Case("handbook", "How long are receipts kept?", "Receipts are kept for three months.", False),
    Case("handbook", "Is there a canteen?", "Lunch is served in the canteen from 12:00.", False),
    Case(
        "handbook", "Where is the office?", "The office is in Port Arden. Parking behind the building is free.", False
    ),
    Case("biography", "When was Maria Lindqvist born?", "Maria Lindqvist was born on February 14, 1871.", True),
    Case("biography", "When was Maria Lindqvist born?", "She was born in 1871 in Uppsala.", True),
    Case("biography", "Where did she study?", "Lindqvist studied chemistry in Leipzig.", True),
    Case("biography", "When did she become a doctor?", "She received her doctorate in 1896.", True),
    Case("biography", "What did she discover?", "With Henrik Vaas, she discovered a blue pigment.", True),
    Case("biography", "How many siblings had she?", "She was the third of 5 children.", True),
    Case("biography", "Where are her notebooks?", "Her notebooks are kept at the Nordic Museum.", True),
    Case("biography", "Was she married?", "She was never married.", True),
    Case("biography", "When was Maria Lindqvist born?", "Maria Lindqvist was born on 14 February 1881.", False),
    Case("biography", "Where was she born?", "She was born in Stockholm.", False),
    Case("biography", "Where did she study?", "She studied physics at the University of Leipzig.", False),
    Case("biography", "When did she become a doctor?", "She received her doctorate in 1904.", False),
    Case("biography", "What did she discover?", "With Henrik Vaas she discovered a new element.", False),
    Case("biography", "Was she married?", "She married Henrik Vaas in 1899.", False),
    Case("biography", "When did she die?", "She died in 1949 in Gothenburg.", False),
    Case("biography", "Where are her notebooks?", "Her notebooks are kept at the British Museum.", False),
    Case("release", "When was Corvid 3.2 released?", "Version 3.2 was released on 2024-06-02.", True),
    Case("release", "When was Corvid 3.2 released?", "It was released in June 2024.", True),
    Case("release", "What is new?", "It adds a dark theme and streaming exports.", True),
    Case("release", "How many bugs were fixed?", "Forty-one bugs were fixed.", True),
    Case("release", "Does it use less memory?", "Yes, memory use fell by 35 percent.", True),
    Case("release", "What is the configuration called?", "The configuration file is called corvid.toml.", True),
    Case("release", "How long does migration take?", "Migration takes about 20 minutes for 100,000 rows.", True),
    Case("release", "Is Windows 7 supported?", "No, support for Windows 7 was removed.", True),
    Case("release", "When was Corvid 3.2 released?", "Version 3.2 was released on 12 June 2024.", False),
    Case("release", "How many bugs were fixed?", "It fixes 14 bugs.", False),
    Case("release", "Does it use less memory?", "Memory use fell by 53 %.", False),
    Case("release", "What is new?", "It adds a dark theme and a plug-in system.", False),
    Case("release", "Is Windows 7 supported?", "Support for Windows 7 was not removed.", False),
    Case("release", "What is the configuration called?", "The configuration file is now called settings.yaml.", False),
    Case("release", "How long does migration take?", "The migration takes about 20 hours.", False),
    Case("release", "Who made the release?", "The release was made by Dana Petrov.", False),
]

FRESH = {
    "recipe": (
        "Walnut bread. Mix 500 g of rye flour with 350 ml of water and 12 g of salt. Knead the dough for "
        "ten minutes and let "
        "it rest overnight in a cool place. Fold in 150 g of chopped walnuts. Bake at 220 °C for 45 minutes. The bread "
        "keeps for five days in a cloth. Do not put it in the fridge. Rosa Villanueva won the county fair "
        "with this bread "
        "in 1987."
    ),
    "match": (
        "Rovers beat United 3-1 at Hallam Park on Saturday in front of 18,400 spectators. Kofi Mensah "
        "scored twice before "
        "half-time. Daniel Roth pulled one back for United in the 61st minute, but Luis Ferreira settled "
        "the game from a "
        "penalty. United finished with ten men after goalkeeper Per Holm was sent off. Rovers are now "
        "second in the table, "
        "four points behind City."
    ),
}  # fmt: skip
FRESH_CASES = [
    Case("recipe", "How much flour do I need?", "You need 500 grams of rye flour.", True),
    Case("recipe", "How much flour do I need?", "Half a kilo of rye flour.", True),
    Case("recipe", "How long is the dough kneaded?", "Knead the dough for 10 minutes.", True),
    Case("recipe", "How hot is the oven?", "Bake the bread at 220 degrees for 45 minutes.", True),
    Case("recipe", "How do I store it?", "It keeps five days in a cloth, and should not be put in the fridge.", True),
    Case("recipe", "Who won with it?", "Rosa Villanueva won the county fair with it in 1987.", True),
    Case("recipe", "What goes in?", "Chopped walnuts are folded in.", True),
    Case("recipe", "How much flour do I need?", "You need 350 g of rye flour.", False),
    Case("recipe", "How much flour do I need?", "You need 500 g of wheat flour.", False),
    Case("recipe", "How long is the dough kneaded?", "Knead it for twenty minutes.", False),
    Case("recipe", "How hot is the oven?", "Bake it at 180 °C.", False),
    Case("recipe", "How do I store it?", "Put it in the fridge.", False),
    Case("recipe", "Who won with it?", "Rosa Villanueva won the state fair in 1978.", False),
    Case("recipe", "What goes in?", "Fold in chopped walnuts and raisins.", False),
    Case("match", "Who won?", "Rovers beat United 3-1.", True),
    Case("match", "How many people came?", "There were 18,400 spectators at Hallam Park.", True),
    Case("match", "Who scored twice?", "Kofi Mensah scored twice.", True),
    Case("match", "Who was sent off?", "United's goalkeeper Per Holm was sent off.", True),
    Case("match", "Who settled the game?", "Luis Ferreira settled it from a penalty.", True),
    Case("match", "Where are Rovers in the table?", "Rovers are second, four points behind City.", True),
    Case("match", "Who won?", "United beat Rovers 3-1.", False),
    Case("match", "How many people came?", "There were 14,800 spectators.", False),
    Case("match", "Who scored twice?", "Luis Ferreira scored twice.", False),
    Case("match", "Who was sent off?", "Kofi Mensah was sent off.", False),
    Case("match", "Who settled the game?", "Luis Ferreira settled it with a header.", False),
    Case("match", "Where are Rovers in the table?", "Rovers are first, four points ahead of City.", False),
]
"""Written after the rules were done, and not mended on: what they are worth on texts that nobody looked at."""
